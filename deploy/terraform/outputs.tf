output "storage" {
  description = "WAFER_STORAGE."
  value       = "s3://${module.storage.name}/${var.storage_prefix}"
}

output "image_repository" {
  description = "Where images are pushed."
  value       = module.ecr.url
}

output "secrets" {
  description = "Secrets whose values are entered by hand, by their names."
  value       = module.secrets.arns
}

output "mlflow_url" {
  description = "MLFLOW_TRACKING_URI, from within the network."
  value       = var.mlflow ? module.mlflow[0].url : null
}

output "ecs_job_variables" {
  description = "job_variables of deployments on the work pool of type ecs."
  value       = local.in_ecs ? module.ecs[0].job_variables : null
}

output "eks" {
  description = "The cluster, and the roles that annotate its service accounts."
  value       = one(module.eks[*].cluster)
}

output "ci_role" {
  description = "Role that workflows assume by OIDC."
  value       = one(module.ci[*].role_arn)
}

output "artifacts" {
  description = "Artefacts of MLflow."
  value       = "s3://${module.artifacts.name}/mlflow"
}

output "flow_roles" {
  description = "Roles of flow runs, for the users of a MongoDB that knows roles of AWS."
  value       = merge({ for module in module.ecs : "ecs" => module.flow_role }, { for module in module.eks : "eks" => module.cluster.pod_roles["pods"] })
}

output "addresses" {
  description = "Addresses of the NAT gateways, from which everything reaches the internet."
  value       = module.network.addresses
}
