"""TorchX's scheduler of this machine, with a check of the port on which hosts meet.

Without it only torchrun would notice a port that another program holds, and then wait for whoever
listens there.
"""

from collections.abc import Mapping
from typing import Any

from torchx.schedulers.api import AppDryRunInfo
from torchx.schedulers.local_scheduler import (
    CWDImageProvider,
    LocalScheduler,
    PopenRequest,
)
from torchx.specs import AppDef

from dat_rec.dist.host_address import check_free
from dat_rec.errors import UserError
from launch.app import PORT
from launch.checks import check_no_image
from launch.refuse import refuse


class Scheduler(LocalScheduler):  # type: ignore[misc]  # TorchX ships no types
    """See the module."""

    def _submit_dryrun(self, app: AppDef, cfg: Mapping[str, Any]) -> AppDryRunInfo[PopenRequest]:
        check_no_image(app, "local_cwd")
        info = super()._submit_dryrun(app, cfg)
        for replicas in info.request.role_params.values():
            for replica in replicas:
                replica.env["DAT_REC_LOGS"] = info.request.log_dir
        return info

    def schedule(self, dryrun_info: AppDryRunInfo[PopenRequest]) -> str:
        """Start the job's processes; gives its id."""
        for role in dryrun_info._app.roles:
            port = int(role.metadata.get(PORT, 0))
            if port and role.num_replicas > 1:
                try:
                    check_free(port)
                except UserError as error:
                    refuse(str(error))
        job: str = super().schedule(dryrun_info)
        return job


def create_scheduler(session_name: str, cache_size: int = 100, **_: Mapping[str, Any]) -> Scheduler:
    """Make the scheduler; TorchX's entry point."""
    return Scheduler(session_name, image_provider_class=CWDImageProvider, cache_size=cache_size)
