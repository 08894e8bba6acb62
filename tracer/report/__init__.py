"""Reports on one process for people, made of a bundle of facts and of events in ECS."""
