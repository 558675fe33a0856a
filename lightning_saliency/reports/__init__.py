"""What leaves TensorBoard: the viewer as one page, a film, a comparison of two runs."""
