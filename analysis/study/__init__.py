"""1. What is asked: params.yaml -> cells. Parameters, sweeps, samples and the key of every video, and what every later
step stands on (files, progress, significance). Imports nothing else of `analysis`."""
