"""The commands of ``fosp-train``, one a module: a dataclass of options and ``run``, which raises ``UserError``."""
