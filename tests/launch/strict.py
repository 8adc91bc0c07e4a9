"""A manifest comes in; it is refused unless every field of it is known, in its place and type.

Pods, and the Jobs in a TrainingRuntime, are held against Kubernetes' own strict schemas;
Kubeflow's objects against its models, which drop what they do not know, so that what comes out
of them must be what went in; Volcano's against the fields of its types, as volcano-sh/apis has
them (pkg/apis/batch/v1alpha1/job.go).
"""

from functools import cache
from typing import Any

import kubernetes_validate.utils
from jsonschema import Draft202012Validator
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from kubeflow_trainer_api.models.trainer_v1alpha1_training_runtime import (
    TrainerV1alpha1TrainingRuntime,
)

# It would read its files for every manifest.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)

Manifest = dict[str, Any]
KUBERNETES = "1.37"
TRAINER = "trainer.kubeflow.org/v1alpha1"
JOBSET_ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
JOB_FAILURES = {
    *("BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes"),
    *("MaxFailedIndexesExceeded", "PodFailurePolicy"),
}
FREE = ("labels", "annotations", "requests", "limits", "plugins", "nodeSelector")
"""Maps whose keys Kubernetes leaves to the user."""


def _known(required: str = "", **fields: Manifest) -> Manifest:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": fields,
    }


def _list(item: Manifest) -> Manifest:
    return {"type": "array", "items": item}


TEXT, COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
WORDS = {"type": "object", "additionalProperties": TEXT}
OBJECT = {"type": "object"}
ACTION = {
    "enum": [
        *("AbortJob", "RestartJob", "RestartTask", "RestartPod"),
        *("TerminateJob", "CompleteJob", "ResumeJob"),
    ]
}
EVENT = {
    "enum": [
        *("*", "PodPending", "PodRunning", "PodFailed", "PodEvicted", "Unknown"),
        *("TaskCompleted", "TaskFailed"),
    ]
}
POLICY = _known(
    "action",
    action=ACTION,
    event=EVENT,
    events=_list(EVENT),
    exitCode={"type": "integer", "not": {"const": 0}},
    timeout=TEXT,
) | {"oneOf": [{"required": [one]} for one in ("event", "events", "exitCode")]}
TASK = _known(
    "name replicas template",
    name=TEXT,
    replicas=COUNT,
    minAvailable=COUNT,
    template=_known("spec", metadata=OBJECT, spec=OBJECT),
    policies=_list(POLICY),
    topologyPolicy=TEXT,
    maxRetry=COUNT,
    dependsOn=OBJECT,
)
VOLCANO = _known(
    "apiVersion kind metadata spec",
    apiVersion={"const": "batch.volcano.sh/v1alpha1"},
    kind={"const": "Job"},
    metadata=_known("name namespace", name=TEXT, namespace=TEXT, labels=WORDS, annotations=WORDS),
    spec=_known(
        "queue schedulerName tasks",
        schedulerName=TEXT,
        minAvailable=COUNT,
        volumes=_list(OBJECT),
        tasks=_list(TASK),
        policies=_list(POLICY),
        plugins={"type": "object", "additionalProperties": _list(TEXT)},
        runningEstimate=TEXT,
        queue=TEXT,
        maxRetry=COUNT,
        ttlSecondsAfterFinished=COUNT,
        priorityClassName=TEXT,
        minSuccess=COUNT,
        networkTopology=OBJECT,
    ),
)


class RefusedError(Exception):
    """Says what is wrong with a manifest."""


def check(manifest: Manifest) -> None:
    """Raise ``RefusedError`` unless a cluster with the controllers would take the manifest."""
    try:
        match manifest.get("apiVersion"), manifest.get("kind"):
            case "batch.volcano.sh/v1alpha1", "Job":
                Draft202012Validator(VOLCANO).validate(manifest)
                for task in manifest["spec"]["tasks"]:
                    check_pod(task["template"])
            case trainer, "TrainJob" if trainer == TRAINER:
                _same(TrainerV1alpha1TrainJob, manifest)
            case trainer, "TrainingRuntime" if trainer == TRAINER:
                _same(TrainerV1alpha1TrainingRuntime, manifest)
                _check_job_set(manifest["spec"]["template"]["spec"])
            case other:
                raise RefusedError(f"nobody knows {other}")
    # The models raise what the value before them happens to raise.
    except Exception as error:
        raise RefusedError(str(error)) from error


def _same(model: Any, manifest: Manifest) -> None:
    out = model.from_dict(manifest).to_dict()
    if out != manifest:
        raise RefusedError(f"of {manifest} is understood {out}")


def _check_job_set(spec: Manifest) -> None:
    for rule in spec["failurePolicy"]["rules"]:
        if rule["action"] not in JOBSET_ACTIONS or set(rule["onJobFailureReasons"]) - JOB_FAILURES:
            raise RefusedError(f"unknown: {rule}")
    for job in spec["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job"} | job["template"]
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)
        check_pod(job["template"]["spec"]["template"])


def check_pod(template: Manifest) -> None:
    """Raise ``RefusedError`` unless Kubernetes would take the template of a pod."""
    whole = {"apiVersion": "v1", "kind": "Pod"} | template
    kubernetes_validate.validate(whole, KUBERNETES, strict=True)
