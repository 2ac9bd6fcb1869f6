"""The distributed service on this machine: what docker-compose.yml describes, without a container engine."""
