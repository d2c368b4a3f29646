"""What each layer costs, and widths chosen by it."""
