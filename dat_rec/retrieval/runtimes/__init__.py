"""The towers for runtimes beside torch.export's: ONNX and AOTInductor."""
