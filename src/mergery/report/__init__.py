"""What a merge writes about itself: the model card and the lock."""
