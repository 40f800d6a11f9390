"""The same champion behind other servers, each as its own documents have a service written; `bench.service` runs them.

Each file runs in an environment of its own, which has that server and the core of wafer.
"""
