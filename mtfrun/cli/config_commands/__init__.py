"""The commands `config ...`, which look at configurations."""
