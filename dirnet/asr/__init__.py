"""Speech without a toolkit: audio, features, lexicon, language model, graph, sMBR, decoding, scores. Stands alone."""
