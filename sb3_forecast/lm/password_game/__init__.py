"""The password game: the language-model counterpart of the gridworlds."""
