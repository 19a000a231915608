"""The YAML file, its schema and its errors."""

from provisioner.config.cautions import cautions
from provisioner.config.controllers import Controller
from provisioner.config.files import unreadable_files
from provisioner.config.gateway import Gateway
from provisioner.config.kinds import BackendKind, BridgeChoice, JavaSource, PullPolicy, TransportKind
from provisioner.config.loading import (
    Examined,
    Finding,
    config_path,
    examine,
    examine_bytes,
    load,
    load_to_run,
    missing_files,
    missing_secrets,
)
from provisioner.config.loans import LoanMachine, Loans
from provisioner.config.problems import written
from provisioner.config.providers import Provider, Ssh, Tls
from provisioner.config.secret import SecretRef
from provisioner.config.settings import Cleanup, CleanupAfter, CleanupLabels, Http, Limits, Registry, Settings
from provisioner.config.shape import json_schema
from provisioner.config.template_parts import Resources, Timeouts
from provisioner.config.templates import Template

__all__ = [
    "BackendKind",
    "BridgeChoice",
    "Cleanup",
    "CleanupAfter",
    "CleanupLabels",
    "Controller",
    "Examined",
    "Finding",
    "Gateway",
    "Http",
    "JavaSource",
    "Limits",
    "LoanMachine",
    "Loans",
    "Provider",
    "PullPolicy",
    "Registry",
    "Resources",
    "SecretRef",
    "Settings",
    "Ssh",
    "Template",
    "Timeouts",
    "Tls",
    "TransportKind",
    "cautions",
    "config_path",
    "examine",
    "examine_bytes",
    "json_schema",
    "load",
    "load_to_run",
    "missing_files",
    "missing_secrets",
    "unreadable_files",
    "written",
]
