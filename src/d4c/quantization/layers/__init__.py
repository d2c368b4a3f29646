"""Quantized layers: quantizers of activations, quantized weights, and products of both."""
