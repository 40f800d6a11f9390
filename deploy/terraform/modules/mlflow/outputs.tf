output "url" {
  description = "MLFLOW_TRACKING_URI, from within the network."
  value       = "http://${local.host}:${local.port}"
}
