"""Safety monitor in series between the policy and the arm."""
