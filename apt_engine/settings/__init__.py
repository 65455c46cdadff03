"""What a person may set: fields that check and document themselves, the settings of training and of pictures, presets."""
