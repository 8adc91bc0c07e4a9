"""How runs are started: TorchX components; the schedulers' settings stand beside them."""
