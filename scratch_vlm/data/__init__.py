"""Real handwriting made into batches: scenes, boards, clips, words, and files of your own."""
