"""What a study is: its file, its spec, its rows, its status and its backup."""
