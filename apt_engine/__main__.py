"""`python -m apt_engine`: the engine without a page."""

from apt_engine.cli.console import tell_cut_files
from apt_engine.cli.main import main

tell_cut_files()
raise SystemExit(main())
