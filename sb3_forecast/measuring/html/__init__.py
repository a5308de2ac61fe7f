"""One HTML file that answers the question, for people who were not there: no network, no other files."""
