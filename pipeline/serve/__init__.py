"""An artifact as an HTTP service: `engines.service` behind FastAPI and uvicorn."""
