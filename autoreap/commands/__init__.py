"""The commands, a file each: a typed function whose parameters are its arguments and options.

Its docstring is its help: the summary, and under "Example:" a call to copy. What a command needs of torch and the like
it imports within, so that `--help` is instant. To add one, write its file here and list it in `cli`. `options`,
`plan_options` and `writing` hold what several commands share.
"""
