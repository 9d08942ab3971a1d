"""What each kind of media is: how its bytes become tensors, one modality a file."""
