"""The order of work: each file is one stage of the pipeline and its command line."""
