"""What each rule does: read the files on its left, write those on its right; a module a .smk."""
