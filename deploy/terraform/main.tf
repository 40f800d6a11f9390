# Everything that one environment of wafer needs on AWS, in the order in which things depend on each other.

data "aws_caller_identity" "current" {}

locals {
  name           = "${var.name}-${var.environment}"
  account        = data.aws_caller_identity.current.account_id
  storage_bucket = coalesce(var.storage_bucket, "${local.name}-${local.account}")
  image          = "${module.ecr.url}:${var.image_tag}"
  in_ecs         = contains(var.pools, "ecs") || var.mlflow
}

module "key" {
  source = "./modules/key"
  name   = local.name
}

resource "aws_cloudwatch_log_group" "all" {
  name              = "/${var.name}/${var.environment}"
  retention_in_days = var.retention_days
  kms_key_id        = module.key.arn
}

module "network" {
  source         = "./modules/network"
  name           = local.name
  cidr           = var.network_cidr
  zones          = var.zones
  nat_per_zone   = var.nat_per_zone
  key_arn        = module.key.arn
  retention_days = var.retention_days
}

module "storage" {
  source         = "./modules/bucket"
  name           = local.storage_bucket
  key_arn        = module.key.arn
  protected      = var.protected
  retention_days = var.retention_days

  # wafer/storage.py writes these with If-None-Match or If-Match alone, so that of two writers one comes first
  conditional_keys = ["${var.storage_prefix}/latest/*", "${var.storage_prefix}/watched/*"]
}

module "artifacts" {
  source         = "./modules/bucket"
  name           = "${local.storage_bucket}-mlflow"
  key_arn        = module.key.arn
  protected      = var.protected
  retention_days = var.retention_days
}

module "ecr" {
  source    = "./modules/ecr"
  name      = local.name
  key_arn   = module.key.arn
  protected = var.protected
}

module "secrets" {
  source    = "./modules/secrets"
  name      = local.name
  key_arn   = module.key.arn
  protected = var.protected
  secrets = merge(
    {
      mongodb-url     = "MONGODB_URL of the database of wafers"
      prefect-api-key = "PREFECT_API_KEY of workers and flow runs"
      webhook-url     = "WAFER_WEBHOOK_URL"
      webhook-secret  = "WAFER_WEBHOOK_SECRET, which signs messages"
    },
    contains(var.pools, "eks") ? { # what External Secrets reads for deploy/kubernetes/overlays/eks
      mlflow-backend-store-uri = "MLFLOW_BACKEND_STORE_URI of an MLflow server in the cluster"
      prefect-database-url     = "PREFECT_SERVER_DATABASE_CONNECTION_URL of a Prefect server in the cluster"
      metrics-token            = "Token by which Prometheus asks the service for its metrics"
    } : {},
  )
}

module "storage_rights" {
  source  = "./modules/iam"
  name    = "${local.name}-storage"
  bucket  = module.storage.name
  prefix  = var.storage_prefix
  key_arn = module.key.arn
}

module "artifact_rights" {
  source  = "./modules/iam"
  name    = "${local.name}-artifacts"
  bucket  = module.artifacts.name
  prefix  = "mlflow"
  key_arn = module.key.arn
}

module "ecs" {
  source             = "./modules/ecs"
  count              = local.in_ecs ? 1 : 0
  name               = local.name
  vpc_id             = module.network.vpc_id
  subnets            = module.network.private_subnets
  image              = local.image
  repository_arn     = module.ecr.arn
  key_arn            = module.key.arn
  log_group          = { name = aws_cloudwatch_log_group.all.name, arn = aws_cloudwatch_log_group.all.arn }
  storage_policy_arn = module.storage_rights.policy_arn
  worker_count       = contains(var.pools, "ecs") ? var.worker_count : 0
  environment = {
    MLFLOW_TRACKING_URI = var.mlflow ? "http://mlflow.${local.name}.internal:5000" : ""
    PREFECT_API_URL     = var.prefect_api_url
    WAFER_LOG_FORMAT    = "json"
    WAFER_STATE         = "/tmp/state"
    WAFER_STORAGE       = "s3://${module.storage.name}/${var.storage_prefix}"
  }
  secrets = {
    MONGODB_URL          = module.secrets.arns["mongodb-url"]
    PREFECT_API_KEY      = module.secrets.arns["prefect-api-key"]
    WAFER_WEBHOOK_URL    = module.secrets.arns["webhook-url"]
    WAFER_WEBHOOK_SECRET = module.secrets.arns["webhook-secret"]
  }
}

module "mlflow" {
  source              = "./modules/mlflow"
  count               = var.mlflow ? 1 : 0
  name                = local.name
  vpc_id              = module.network.vpc_id
  subnets             = module.network.private_subnets
  clients             = { vpc = var.network_cidr }
  cluster_arn         = module.ecs[0].cluster_arn
  image               = local.image
  repository_arn      = module.ecr.arn
  key_arn             = module.key.arn
  log_group           = { name = aws_cloudwatch_log_group.all.name, arn = aws_cloudwatch_log_group.all.arn }
  artifacts           = "s3://${module.artifacts.name}/mlflow"
  artifact_policy_arn = module.artifact_rights.policy_arn
  database_class      = var.database_class
  multi_az            = var.database_multi_az
  password_version    = var.database_password_version
  protected           = var.protected
}

module "eks" {
  source             = "./modules/eks"
  count              = contains(var.pools, "eks") ? 1 : 0
  name               = local.name
  kubernetes_version = var.kubernetes_version
  subnets            = module.network.private_subnets
  api_cidrs          = var.kubernetes_api_cidrs
  node_types         = var.node_types
  nodes              = var.nodes
  key_arn            = module.key.arn
  retention_days     = var.retention_days
  secret_arns        = values(module.secrets.arns)
  roles = {
    pods        = { accounts = var.service_accounts.storage, policy_arn = module.storage_rights.policy_arn }
    mlflow-pods = { accounts = var.service_accounts.artifacts, policy_arn = module.artifact_rights.policy_arn }
  }
}

module "budget" {
  source = "./modules/budget"
  count  = var.budget_usd > 0 ? 1 : 0
  name   = local.name
  usd    = var.budget_usd
  emails = var.budget_emails
  tag    = format("user:project$%s", var.name)
}

module "ci" {
  source         = "./modules/ci"
  count          = var.github_repository == "" ? 0 : 1
  name           = local.name
  repository     = var.github_repository
  provider_arn   = var.github_provider_arn
  environment    = var.environment
  repository_arn = module.ecr.arn
}
