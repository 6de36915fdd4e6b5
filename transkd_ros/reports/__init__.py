"""What reports are made of: pages, pictures, and the machine they were measured on."""
