"""Run by every interpreter that finds it (see `site`): plants the bugs that the environment names, in flows only."""

from __future__ import annotations

import importlib
import os
import sys

if {"run", "worker"} & {*sys.orig_argv}:
    for _bug in filter(None, os.environ.get("DATASTREAMX_PLANTED", "").split(",")):
        importlib.import_module(f"tests.chaos.planted.bugs.{_bug.replace('-', '_')}").plant()
