"""The web service over runs: REST under ``/api/v1`` and pages, for one person or for many.

In: settings. Out: an ASGI application; :func:`haystack_kernel.service.serve.serve` runs it.
"""
