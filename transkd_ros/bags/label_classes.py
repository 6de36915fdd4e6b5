"""Which classes the labels of a bag are of: their class table, on a latched topic beside them.

`<camera>/ground_truth/classes` is a std_msgs/String with the JSON of a class table, recorded once. A topic and not the
bag's metadata, because it outlives a replay that is recorded again, and a storage file without its folder.
"""

from __future__ import annotations

import json

from transkd_ros.bags.messages import STORE, STRING, deserialize
from transkd_ros.bags.storage import BagError, BagReader, BagWriter
from transkd_ros.model.labels import LabelTable


def classes_topic(label_topic: str) -> str:
    """`/front/ground_truth/classes` for `/front/ground_truth` and `/front/ground_truth/compressed`."""
    return f"{label_topic.removesuffix('/compressed')}/classes"


def write_classes(bag: BagWriter, label_topic: str, table: LabelTable, stamp_ns: int) -> None:
    """Record the table of the labels on `label_topic`. Raises BagError."""
    text = json.dumps({"ignore_id": table.ignore_id, "classes": table.to_json()}, ensure_ascii=False)
    bag.write(classes_topic(label_topic), STORE.types[STRING](data=text), stamp_ns, latched=True)


def read_classes(bag: BagReader, label_topic: str) -> LabelTable | None:
    """The table of the labels on `label_topic`, None where the bag does not say. Raises BagError for a bad one."""
    topic = classes_topic(label_topic)
    if bag.topics.get(topic) != STRING:
        return None
    for _, _, data in bag.messages([topic]):
        try:
            table = json.loads(deserialize(data, STRING).data)
            return LabelTable.from_json(table["classes"], table["ignore_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise BagError(f"{bag.path}: {topic} holds no class table ({error})") from error
    return None
