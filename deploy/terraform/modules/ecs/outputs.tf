output "cluster_arn" {
  description = "The cluster."
  value       = aws_ecs_cluster.this.arn
}

output "security_group" {
  description = "Group of worker and flow runs."
  value       = aws_security_group.tasks.id
}

output "job_variables" {
  description = "What the work pool's job template needs."
  value = {
    cluster            = aws_ecs_cluster.this.arn
    vpc_id             = var.vpc_id
    image              = var.image
    launch_type        = "FARGATE"
    cpu                = 2048
    memory             = 8192
    execution_role_arn = aws_iam_role.execution.arn
    task_role_arn      = aws_iam_role.flow.arn
    network_configuration = {
      awsvpcConfiguration = {
        subnets        = var.subnets
        securityGroups = [aws_security_group.tasks.id]
        assignPublicIp = "DISABLED"
      }
    }
    configure_cloudwatch_logs = true
    cloudwatch_logs_options   = { awslogs-group = var.log_group.name, awslogs-stream-prefix = "flow" }
    container_name            = "flow"
    env                       = merge(local.given, { PREFECT_FLOWS_HEARTBEAT_FREQUENCY = "30" })
    secrets                   = var.secrets
  }
}

output "flow_role" {
  description = "Role of flow runs."
  value       = aws_iam_role.flow.arn
}
