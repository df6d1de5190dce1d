"""From files to training records: sources of documents, tokenizers, packing, and a preparation that resumes."""
