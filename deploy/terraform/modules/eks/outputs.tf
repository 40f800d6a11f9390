output "cluster" {
  description = "The cluster, and the roles for annotations eks.amazonaws.com/role-arn of service accounts."
  value = {
    name                  = aws_eks_cluster.this.name
    endpoint              = aws_eks_cluster.this.endpoint
    pod_roles             = { for role, made in aws_iam_role.pods : role => made.arn }
    external_secrets_role = aws_iam_role.secrets.arn
  }
}
