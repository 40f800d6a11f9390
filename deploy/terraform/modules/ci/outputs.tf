output "role_arn" {
  description = "Role that jobs assume."
  value       = aws_iam_role.push.arn
}
