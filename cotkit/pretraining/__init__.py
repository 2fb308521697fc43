"Simple language, corpora, the ladder of models and the laws of their losses"
