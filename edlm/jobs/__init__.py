"""Jobs: work items made by any number of processes, each once, whatever is killed and started again."""
