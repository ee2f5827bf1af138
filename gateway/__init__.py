"""The gateway: an agent that programs HAProxy from ZooKeeper. Stands alone: imports nothing else of Berth."""
