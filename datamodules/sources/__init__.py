"""The layouts that users' media come in, one file each."""
