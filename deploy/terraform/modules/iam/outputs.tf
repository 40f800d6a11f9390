output "policy_arn" {
  description = "To attach to a role."
  value       = aws_iam_policy.this.arn
}

output "policy" {
  description = "The policy as JSON."
  value       = aws_iam_policy.this.policy
}
