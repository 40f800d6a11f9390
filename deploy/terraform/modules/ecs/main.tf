# A cluster on Fargate whose tasks are flow runs, and the Prefect worker that starts them.

data "aws_region" "current" {}

locals {
  # rights of the worker on what it starts: task definitions are registered by it, one family a flow
  tasks = "arn:${data.aws_partition.current.partition}:ecs:${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}"
  logs = {
    logDriver = "awslogs"
    options = {
      awslogs-group         = var.log_group.name
      awslogs-region        = data.aws_region.current.name
      awslogs-stream-prefix = "worker"
    }
  }
  given = { for name, value in var.environment : name => value if value != "" }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

resource "aws_ecs_cluster" "this" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  cluster_name       = aws_ecs_cluster.this.name
  capacity_providers = ["FARGATE"] # not FARGATE_SPOT, whose tasks may end two minutes later; a rerun would complete the work

  default_capacity_provider_strategy {
    capacity_provider = "FARGATE"
    weight            = 1
  }
}

resource "aws_security_group" "tasks" {
  name        = "${var.name}-tasks"
  description = "Worker and flow runs: nobody connects to them"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "tasks" {
  for_each = {
    https   = { from = 443, to = 443, why = "AWS, Prefect Cloud" }
    mongodb = { from = 27015, to = 27017, why = "MongoDB Atlas" }
    mlflow  = { from = 5000, to = 5000, why = "MLflow" }
    prefect = { from = 4200, to = 4200, why = "A Prefect server of one's own" }
  }
  security_group_id = aws_security_group.tasks.id
  description       = each.value.why
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value.from
  to_port           = each.value.to
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

# What starts a container: its image, its secrets, its log.
data "aws_iam_policy_document" "execution" {
  #checkov:skip=CKV_AWS_356:a token for the registry can only be asked for all of it
  statement {
    sid       = "Token"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "Pull"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [var.repository_arn]
  }

  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${var.log_group.arn}:*"]
  }

  statement {
    sid       = "Secrets"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = values(var.secrets)
  }

  statement {
    sid       = "Key"
    actions   = ["kms:Decrypt"]
    resources = [var.key_arn]
  }
}

# What the worker does: registers, starts, watches and stops tasks that have these two roles and no others.
data "aws_iam_policy_document" "worker" {
  #checkov:skip=CKV_AWS_111:task definitions have no name yet when they are registered
  #checkov:skip=CKV_AWS_356:descriptions and registrations can only be allowed for all
  statement {
    sid = "Register"
    actions = [
      "ecs:RegisterTaskDefinition", "ecs:DeregisterTaskDefinition", "ecs:DescribeTaskDefinition",
      "ecs:ListTaskDefinitions", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "Start"
    actions   = ["ecs:RunTask"]
    resources = ["${local.tasks}:task-definition/*"]

    condition {
      test     = "ArnEquals"
      variable = "ecs:cluster"
      values   = [aws_ecs_cluster.this.arn]
    }
  }

  statement {
    sid       = "WatchAndStop"
    actions   = ["ecs:DescribeTasks", "ecs:StopTask", "ecs:TagResource"]
    resources = ["${local.tasks}:task/${var.name}/*"]
  }

  statement {
    sid       = "GiveTheRolesOfFlowRuns"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.execution.arn, aws_iam_role.flow.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ecs-tasks.amazonaws.com"]
    }
  }

  statement {
    sid       = "ReadTheirLog"
    actions   = ["logs:GetLogEvents"]
    resources = ["${var.log_group.arn}:*"]
  }
}

resource "aws_iam_role" "execution" {
  name               = "${var.name}-execution"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy" "execution" {
  name   = "start"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

resource "aws_iam_role" "flow" {
  name               = "${var.name}-flow"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy_attachment" "flow" {
  role       = aws_iam_role.flow.name
  policy_arn = var.storage_policy_arn
}

resource "aws_iam_role" "worker" {
  name               = "${var.name}-worker"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy" "worker" {
  name   = "run"
  role   = aws_iam_role.worker.id
  policy = data.aws_iam_policy_document.worker.json
}

resource "aws_ecs_task_definition" "worker" {
  family                   = "${var.name}-worker"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = 512
  memory                   = 1024
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.worker.arn

  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([{
    name                   = "worker"
    image                  = var.image
    command                = ["prefect", "worker", "start", "--pool", "wafer", "--type", "ecs", "--with-healthcheck"]
    essential              = true
    readonlyRootFilesystem = true
    user                   = "10001"
    environment            = [for name, value in merge(local.given, { PREFECT_HOME = "/tmp/prefect" }) : { name = name, value = value }]
    secrets                = [{ name = "PREFECT_API_KEY", valueFrom = var.secrets["PREFECT_API_KEY"] }]
    mountPoints            = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]
    logConfiguration       = local.logs
  }])
}

resource "aws_ecs_service" "worker" {
  name                               = "worker"
  cluster                            = aws_ecs_cluster.this.id
  task_definition                    = aws_ecs_task_definition.worker.arn
  desired_count                      = var.worker_count
  launch_type                        = "FARGATE"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnets
    security_groups  = [aws_security_group.tasks.id]
    assign_public_ip = false
  }
}
