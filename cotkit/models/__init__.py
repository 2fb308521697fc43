"Tokenizers, students and generation"
