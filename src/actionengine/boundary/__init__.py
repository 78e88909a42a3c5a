"""The execution boundary: work on files, commands and networks, with explicit capabilities.

A runner runs module actions in modules. A module is a folder of one tenant, and a profile limits what may be done:

    runner = InProcessRunner(CODE_MODULE_DEFAULT)
    module = ModuleRoots("/srv/modules").context(tenant, "website")
    request = ExecutionRequest(
        tenant=tenant, module=module, action="read", input={"path": "index.html"}, capabilities={"fs:read"}
    )
    match runner.execute(request): …

`modules_service` turns module actions into governed actions. Diffs need the extra `changes`.
"""

from actionengine.boundary.boundary import AdmittedRequest, Boundary
from actionengine.boundary.capabilities import (
    CODE_MODULE_DEFAULT,
    PROFILES,
    READ_ONLY,
    SYSTEM_PRIVILEGED,
    WORKFLOW_MODULE_DEFAULT,
    Capability,
    CapabilityProfile,
)
from actionengine.boundary.commands.file_access import file_isolation
from actionengine.boundary.commands.processes import CompletedCommand, ProcessLimits, network_isolation
from actionengine.boundary.declarations import ModuleAction, create_module_action
from actionengine.boundary.errors import (
    BoundaryError,
    CapabilityNotGrantedError,
    FileIsolationError,
    MissingModuleError,
    MissingTenantError,
    PathEscapeError,
    TenantMismatchError,
)
from actionengine.boundary.files.files import FileEntry, ModuleFiles
from actionengine.boundary.files.paths import ModuleFolder, ModulePath
from actionengine.boundary.in_process import InProcessRunner
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.boundary.request import ExecutionRequest, ExecutionResult, ModuleContext
from actionengine.boundary.roots import ModuleRoots
from actionengine.boundary.runner import BoundaryRunner, Runner
from actionengine.boundary.service import ModulePermissions, modules_service
from actionengine.boundary.subprocess_runner import SubprocessRunner
from actionengine.boundary.telemetry import ExecutionEvent, log_sink

__all__ = [
    "CODE_MODULE_DEFAULT",
    "MODULE_ACTIONS",
    "PROFILES",
    "READ_ONLY",
    "SYSTEM_PRIVILEGED",
    "WORKFLOW_MODULE_DEFAULT",
    "AdmittedRequest",
    "Boundary",
    "BoundaryError",
    "BoundaryRunner",
    "Capability",
    "CapabilityNotGrantedError",
    "CapabilityProfile",
    "CompletedCommand",
    "ExecutionEvent",
    "ExecutionRequest",
    "ExecutionResult",
    "FileEntry",
    "FileIsolationError",
    "InProcessRunner",
    "MissingModuleError",
    "MissingTenantError",
    "ModuleAction",
    "ModuleContext",
    "ModuleFiles",
    "ModuleFolder",
    "ModuleHandle",
    "ModulePath",
    "ModulePermissions",
    "ModuleRoots",
    "PathEscapeError",
    "ProcessLimits",
    "Runner",
    "SubprocessRunner",
    "TenantMismatchError",
    "create_module_action",
    "file_isolation",
    "log_sink",
    "modules_service",
    "network_isolation",
]
