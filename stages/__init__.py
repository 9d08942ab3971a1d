"""The order of work: each file is one stage of the pipeline and its command line."""

from callbacks.signals import hear_early

hear_early()  # here, for the import of a stage is slow, and a scheduler's signal may come in it
