"""The whole job: synthesize, quantize, evaluate, with a run directory that resumes step by step."""
