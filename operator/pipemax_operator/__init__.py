"""The operator: turns InferenceJobs into worker pods and tells the truth about them.

    handlers -> reconciler -> {plan, cluster};  plan -> {manifests, status} -> names

Deciding (``plan``, ``manifests``, ``status``, ``names``, ``crd``) knows neither kopf nor a client.
"""
