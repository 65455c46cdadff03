"""Many runs from one plan: subjects x settings x seeds, handed out by Optuna, trained by ordinary workers."""
