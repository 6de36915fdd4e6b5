"""What annotation tools export, made into the folders that training reads: `python -m training.data.convert`.

`masks`, `coco` and `label_studio` read one kind of export each and give `Annotations`; `classes` brings their class
names to those of a table, `layout` writes the folders; `__main__` is the command.
"""
