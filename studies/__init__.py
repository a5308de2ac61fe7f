"""The project's studies: what is compared, how it is run, and the tables that are made of the records."""
