"""From a neutral model to a program for a phone, and its timing. The only folder that imports ExecuTorch."""
