"""The words of the product: values without behaviour beyond their own rules."""
